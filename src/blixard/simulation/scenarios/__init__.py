"""Named scenarios: each puts real nodes into one situation that has hurt somebody."""
