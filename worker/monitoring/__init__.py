"""What an operator sees of the product: metrics, logs, health. No names, no tokens, only counts.

Only prometheus-client and structlog come in here. Rooms above count with the objects of
`metrics` and log with `logs.logger`; nobody else speaks to either library.
"""
