"""Grants, events, and the decisions made about them.

Pure: values in, values out. Only the standard library comes in here; no httpx, sqlalchemy or
celery, no other room of `worker`, no clock, no environment: callers pass `now`.
"""
