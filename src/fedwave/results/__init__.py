"""What a run leaves behind: the run folder, the clients' memory, tables and figures."""
