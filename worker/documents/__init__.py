"""Documents: opening archives, reading text out of files, splitting it into passages."""
