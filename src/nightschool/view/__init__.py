"""What `run` and `status --watch` show: `model` reads it, `drawing` lays it out, `live` keeps it there."""
