"""What the profile slurm/ does before Snakemake reads the study: the one function that slurm/config.yaml calls.

It is the profile's and not the Snakefile's since only a Snakemake that submits jobs has use for it, and since it must
happen before the DAG is built: what surviving jobs make in the meantime counts as made.
"""

from __future__ import annotations

import sys

from dataeff.errors import DataeffError
from dataeff.study.queue import remember_min_job_age
from dataeff.study.site import Site, here
from dataeff.study.survivors import settle


def begin() -> Site:
    """The site that jobs are submitted to, once no job of an earlier Snakemake is left.

    A mistake ends Snakemake with one line: an exception would come out below a page of Snakemake's own options.
    """
    try:
        site = here()
        settle()
    except DataeffError as error:
        sys.exit(f"dataeff: error: {error}")
    except KeyboardInterrupt:
        sys.exit("dataeff: no longer waiting; jobs of the earlier snakemake go on")
    remember_min_job_age()
    return site
