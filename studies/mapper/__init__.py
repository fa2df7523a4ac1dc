"""The study of stepfall's mapper: against another mapper, against a published mapping, and how long it takes."""
