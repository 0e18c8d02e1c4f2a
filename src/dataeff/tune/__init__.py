"""`dataeff tune`: a pacing's start and duration by short trainings, as the papers choose them (docs/tune.md)."""
