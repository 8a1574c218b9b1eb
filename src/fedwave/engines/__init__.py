"""Engines train a cohort. ``cohort`` stacks the clients of a round along a leading axis in one process."""
