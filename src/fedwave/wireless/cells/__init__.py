"""One round in the cells of a network: load and interference, access, and both transfers of every client."""
