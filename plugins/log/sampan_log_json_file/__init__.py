"""Log driver json-file: a JSON object a line, as Docker writes it."""
