"""A carrier shared in continuous time: rates by grant, who gets what, and when each transfer ends."""
