// SPDX-License-Identifier: GPL-2.0-only
/*
 * usmbd_coverage.ko, for a build for tests (make module COVERAGE=1): remembers which basic blocks of
 * usmbd.ko have run, however often that is unloaded and loaded meanwhile. The compiler has each block
 * call __sanitizer_cov_trace_pc(), as KCOV has it; but KCOV would only see what system calls do, and not
 * work items and completions.
 *
 * /sys/kernel/debug/usmbd_coverage has the offsets in .text behind those calls that were made.
 */
#include <linux/bitmap.h>
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/seq_file.h>

#define MOST (2 << 20)

static unsigned long start;
static DECLARE_BITMAP(seen, MOST);
static struct dentry *file;

void __sanitizer_cov_trace_pc(void);
void notrace __sanitizer_cov_trace_pc(void)
{
	unsigned long at = _RET_IP_ - READ_ONCE(start);

	if (at < MOST && !test_bit(at, seen))
		set_bit(at, seen);
}
EXPORT_SYMBOL_GPL(__sanitizer_cov_trace_pc);

static int module_event(struct notifier_block *block, unsigned long event, void *data)
{
	struct module *module = data;

	if (event == MODULE_STATE_COMING && !strcmp(module->name, "usmbd"))
		WRITE_ONCE(start, (unsigned long)module->mem[MOD_TEXT].base);
	return NOTIFY_DONE;
}

static struct notifier_block notifier = { .notifier_call = module_event };

static int coverage_show(struct seq_file *out, void *unused)
{
	unsigned long at;

	for_each_set_bit(at, seen, MOST)
		seq_printf(out, "%lx\n", at);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(coverage);

static int __init coverage_init(void)
{
	file = debugfs_create_file("usmbd_coverage", 0400, NULL, NULL, &coverage_fops);
	return register_module_notifier(&notifier);
}

static void __exit coverage_exit(void)
{
	unregister_module_notifier(&notifier);
	debugfs_remove(file);
}

module_init(coverage_init);
module_exit(coverage_exit);
MODULE_DESCRIPTION("remembers which parts of usmbd have run");
MODULE_LICENSE("GPL");
