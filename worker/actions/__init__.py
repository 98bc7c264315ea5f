"""What is done when something happened: ordered handlers `run(event, api)`, as Auth0 Actions are.

The built-in ones do the work (pull a user, pull a connection, drop a user); an operator's own are
bound in `evergrant.toml`. A handler sees ids, never a token, and can do only what `Api` offers.
Outside comes in through collaborators; nothing of the store or of HTTP is imported here.
"""

from worker.actions.api import ActionEvent, Api
from worker.actions.binding import Action, bind
from worker.actions.builtin import built_in
from worker.actions.collaborators import Collaborators, Settings
from worker.actions.run import Registry, Run

__all__ = [
    "Action",
    "ActionEvent",
    "Api",
    "Collaborators",
    "Registry",
    "Run",
    "Settings",
    "bind",
    "built_in",
]
