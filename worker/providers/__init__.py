"""Third-party providers: what is known about each, and one conversation with its token endpoint.

`catalog.toml` is data in the words of `vocabulary`; `loading` checks it; `catalogue` finds the
entry for a grant; `provider` builds its requests (`asking`) and judges its answers (`salvage`,
`reading`). `token_endpoint` sends, over `transport`. Knows httpx; knows nothing of the store, of
Auth0's API or of who calls.
"""

from worker.providers.catalogue import Catalogue, load_catalogue
from worker.providers.token_endpoint import HttpTokenEndpoint

__all__ = ["Catalogue", "HttpTokenEndpoint", "load_catalogue"]
