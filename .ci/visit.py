"""Open the demo's page as a browser does, signing in by the way: python .ci/visit.py http://…/"""

from __future__ import annotations

import sys
from urllib.request import HTTPCookieProcessor, ProxyHandler, build_opener

with build_opener(HTTPCookieProcessor(), ProxyHandler({})).open(sys.argv[1], timeout=30) as response:
    page = response.read().decode()
    assert response.status == 200
    assert "<form" in page
