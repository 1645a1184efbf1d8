"""Functions: code that is called, in microVMs that come and go with the calls."""
