"""Every sink. If a token has the markers of several, the first in this order counts."""

from __future__ import annotations

from osg_token_renewer.sinks.base import Sink
from osg_token_renewer.sinks.file import FileSink

SINKS: dict[str, Sink] = {sink.NAME: sink for sink in (FileSink(),)}
