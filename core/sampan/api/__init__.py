"""The public contract: all that the author of a driver may import, together with `sampan.linux`.

Import the submodule you need (`sampan.api.storage`, `.network`, `.runtime`, `.volume`, `.logs`, `.ipam`,
`.hookspecs`, `.config`, `.errors`). Nothing is imported here, so that a runtime driver in a shim pays only for what it uses.
"""

API_VERSION = (1, 0)
"""Major and minor of the contract. A driver written for another major is refused by the loader."""
