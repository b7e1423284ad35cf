// SPDX-License-Identifier: GPL-2.0-only
/*
 * A QEMU plugin that counts the instructions of a guest with one processor, between two marks that the
 * guest sets, by the address at which they stand.
 *
 * A mark is a NOP of seven bytes with a displacement that compilers do not make (src/marks.rs), so that the
 * guest needs nothing of QEMU's and runs without the plugin too:
 *   0F 1F 80 | number
 * Numbers: SHIFT_ZERO and SHIFT_ONE shift a bit into a register of the plugin, BEGIN starts counting
 * under the number in that register, END writes what was counted to out=FILE:
 *   window NUMBER
 *   ADDRESS RUNS INSTRUCTIONS    (one line per block of code that ran; hexadecimal, decimal, decimal)
 *
 * A string instruction with a REP prefix is translated into a block that begins with it and runs once
 * for each byte or word. Such blocks count nothing, or a copy of a page would look like a thousand
 * instructions.
 */
#include "qemu_plugin.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

EXPORT int qemu_plugin_version = 1;
EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv);

enum {
	SHIFT_ZERO,
	SHIFT_ONE,
	BEGIN,
	END,
	MARKS,
};

static const uint8_t mark_bytes[3] = { 0x0f, 0x1f, 0x80 };
#define MARK_BASE 0x75736d00u

/* Code that was translated; the same code translated again has the same block. */
struct block {
	struct block *next;
	struct block *all;
	uint64_t address;
	uint64_t instructions;
	uint64_t runs;
};

#define BUCKETS (1u << 16)
static struct block *buckets[BUCKETS];
static struct block *blocks;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static FILE *out;
static uint64_t shifted;

static struct block *block_of(uint64_t address, uint64_t instructions)
{
	struct block **bucket = &buckets[(address ^ address >> 16) % BUCKETS];
	struct block *block;

	for (block = *bucket; block; block = block->next)
		if (block->address == address && block->instructions == instructions)
			return block;
	block = calloc(1, sizeof(*block));
	if (!block)
		abort();
	block->address = address;
	block->instructions = instructions;
	block->next = *bucket;
	*bucket = block;
	block->all = blocks;
	blocks = block;
	return block;
}

static void begin(void)
{
	struct block *block;

	for (block = blocks; block; block = block->all)
		block->runs = 0;
}

static void end(void)
{
	struct block *block;

	fprintf(out, "window %" PRIu64 "\n", shifted);
	for (block = blocks; block; block = block->all)
		if (block->runs)
			fprintf(out, "%" PRIx64 " %" PRIu64 " %" PRIu64 "\n", block->address, block->runs,
				block->runs * block->instructions);
	fflush(out);
}

static void marked(unsigned int vcpu, void *number)
{
	(void)vcpu;
	pthread_mutex_lock(&lock);
	switch ((uintptr_t)number) {
	case SHIFT_ZERO:
		shifted <<= 1;
		break;
	case SHIFT_ONE:
		shifted = shifted << 1 | 1;
		break;
	case BEGIN:
		begin();
		break;
	case END:
		end();
		break;
	}
	pthread_mutex_unlock(&lock);
}

/* A string instruction that repeats: REP or REPNE, perhaps a REX prefix, then one of these. */
static bool repeats(const uint8_t *bytes, size_t length)
{
	size_t at = 1;

	if (length < 2 || (bytes[0] != 0xf3 && bytes[0] != 0xf2))
		return false;
	if (length > 2 && (bytes[1] & 0xf0) == 0x40)
		at = 2;
	if (at + 1 != length)
		return false;
	switch (bytes[at]) {
	case 0x6c ... 0x6f:
	case 0xa4 ... 0xa7:
	case 0xaa ... 0xaf:
		return true;
	}
	return false;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	size_t count = qemu_plugin_tb_n_insns(tb);
	struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, 0);
	struct block *block;
	uint32_t number;
	size_t at;

	(void)id;
	if (repeats(qemu_plugin_insn_data(insn), qemu_plugin_insn_size(insn)))
		return;
	pthread_mutex_lock(&lock);
	block = block_of(qemu_plugin_tb_vaddr(tb), count);
	pthread_mutex_unlock(&lock);
	qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &block->runs, 1);
	for (at = 0; at < count; at++) {
		const uint8_t *bytes;

		insn = qemu_plugin_tb_get_insn(tb, at);
		bytes = qemu_plugin_insn_data(insn);
		if (qemu_plugin_insn_size(insn) != 7 || memcmp(bytes, mark_bytes, sizeof(mark_bytes)))
			continue;
		memcpy(&number, bytes + sizeof(mark_bytes), sizeof(number));
		number -= MARK_BASE;
		if (number < MARKS)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, marked, QEMU_PLUGIN_CB_NO_REGS,
							       (void *)(uintptr_t)number);
	}
}

static void ended(qemu_plugin_id_t id, void *nothing)
{
	(void)id;
	(void)nothing;
	fclose(out);
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
	(void)info;
	if (argc != 1 || strncmp(argv[0], "out=", 4)) {
		fprintf(stderr, "count: out=FILE is what it takes\n");
		return -1;
	}
	out = fopen(argv[0] + 4, "w");
	if (!out) {
		perror(argv[0] + 4);
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, ended, NULL);
	return 0;
}
