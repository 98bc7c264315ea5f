"""Authorization servers that we did not write, on loopback, as "any other OAuth 2.0 provider"."""
