"""The page: what the run learns, shown in a browser, and the JSON API behind it."""
