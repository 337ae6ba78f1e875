"""Code generated from proto/ by ``make proto``; not edited by hand.

cosmpy registers the ``cosmos.*`` modules that the generated code imports, so it has to come first.
"""

import cosmpy.protos as _cosmos  # noqa: F401
