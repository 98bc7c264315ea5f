"""The truth: grants, claims, the inbox and the audit, in PostgreSQL or SQLite.

SQLAlchemy lives here and nowhere else. Repositories take an `Engine`, speak domain values, turn
database errors into `WorkerError`s, and keep every transaction short: none is open during HTTP.
"""
