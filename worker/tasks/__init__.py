"""The queue's door: Celery tasks as thin shells, and the scheduler's tick.

A task has no arguments and returns counts; what it does follows from the store alone (I21).
"""
