from dataeff.analyze.metrics import METRICS
from dataeff.families import find_family
from dataeff.families.traits import TRAITS
from dataeff.study.types import FREQUENCY


def test_the_metrics_of_a_family_are_those_that_are_computed() -> None:
    for family, traits in TRAITS.items():
        computed = {name for name, metric in METRICS.items() if family in metric.families}
        assert set(traits.select_metrics) == computed - {FREQUENCY}


def test_every_family_has_its_traits() -> None:
    """A model that predicts every byte of a text is one that continues it."""
    for family, traits in TRAITS.items():
        assert find_family(family).name == family
        assert find_family(family).predicts_every_byte == traits.prompted
        assert set(traits.refused) <= {"truncate", "reshape", "window", "bucket"}
