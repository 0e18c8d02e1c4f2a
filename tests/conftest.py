"""For all tests: examples of hypothesis have no deadline, since machines that run tests are busy."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
