"""The networks that a job can name."""
