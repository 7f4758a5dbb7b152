"""Speed of the task layers against the best that a user can get without them. `python -m bench.run --help`."""
