"""`python -m osg_token_renewer` is the operator's command."""

import sys

from osg_token_renewer.cli import main

sys.exit(main())
