"""Who acts: prompts, language models, the policy and the reflectors."""

import os

# Without it, Intel's MKL picks other kernels for the rows of a second thread, and a prompt's last bits would depend on
# its place in a batch. MKL reads this at its first use; other libraries ignore it.
os.environ.setdefault("MKL_CBWR", "AUTO")
