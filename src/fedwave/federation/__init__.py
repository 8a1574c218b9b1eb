"""The round loops, and who is asked to take part. ``sync`` waits for the cohort or the deadline."""
