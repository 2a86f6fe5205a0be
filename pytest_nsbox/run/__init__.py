"""One pytest item in a sandbox. All that we know of the private parts of pytest is in here."""
