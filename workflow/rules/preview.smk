"""In the dry run of `dataeff preview` alone: the specs that an edit changes, which are not written then."""

from dataeff.monitor import dry_run

for specs in dry_run.specs_to_remake(workflow):

    rule:
        name:
            dry_run.RULE
        output:
            specs,
        message:
            "specs"
