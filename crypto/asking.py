"""Whether the program waits for its user to type: whatever ends silences on the terminal must not do it then."""

from __future__ import annotations

import threading

#: Is set while a passphrase is asked for.
waiting_for_user = threading.Event()
