"""For developing and trying out: a real PostgreSQL and a real Kafka broker from pip packages alone.

Nothing that runs in service imports this room. What it needs beyond the service comes with the extra `local`, and is
imported where it is used, so that its absence is one sentence and not a traceback.
"""
