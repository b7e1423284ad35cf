// SPDX-License-Identifier: GPL-2.0-only
/*
 * Part of the module only in a build for tests/raw/mutants.py (make module DISABLE=1): takes one command
 * away, so that it can be seen that a test notices.
 */
#include <linux/module.h>

static ushort disabled;
module_param(disabled, ushort, 0600);
MODULE_PARM_DESC(disabled, "opcode that is answered by EOPNOTSUPP");

bool usmbd_is_disabled(u16 opcode);
bool usmbd_is_disabled(u16 opcode)
{
	return disabled && opcode == READ_ONCE(disabled);
}
