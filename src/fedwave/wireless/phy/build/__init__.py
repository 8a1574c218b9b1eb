"""How the goodput tables are made: fading draws, BLER curves, link adaptation; used offline and by the tests."""
