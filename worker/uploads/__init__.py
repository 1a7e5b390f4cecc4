"""Carrying out a document upload: what to store, opening it, storing it, and keeping the workspace in step."""
