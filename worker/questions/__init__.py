"""Question sets: reading them, scoring their answers, and the report a person reads."""
