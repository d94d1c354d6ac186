"""What trains and what measures: slower, resumable, with provenance."""
