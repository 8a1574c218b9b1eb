"""Engines train a cohort: ``cohort`` in one process, ``ray`` in many. Both stack clients along a leading axis."""
