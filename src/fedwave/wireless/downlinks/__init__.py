"""How the message of a round reaches the clients: one copy each, or one transmission for all of a cell."""
