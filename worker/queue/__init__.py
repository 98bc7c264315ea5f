"""The broker: a Celery application, its settings per broker, hints out and raw messages in.

Celery and kombu come in here and in `tasks`, nowhere else. A message says "look", never "what":
no task has arguments, so nothing on the wire is worth reading or forging (I15, I21).
"""
