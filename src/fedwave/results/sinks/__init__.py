"""Where records go besides the run folder: one file a service, its package imported when a run begins."""
