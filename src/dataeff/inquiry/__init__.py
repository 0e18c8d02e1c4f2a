"""What a person asks of a study before running it: what a run does when, what differs, what it will cost."""
