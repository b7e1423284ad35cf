// SPDX-License-Identifier: GPL-2.0-only
/*
 * A 32-bit program on a 64-bit kernel: read, write, readv, writev, poll and
 * both mappings of /dev/usmbd through the compat system calls. No libc, so that
 * it builds where no 32-bit one is. Says what went wrong, and ends with 1; or
 * with 0.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

_Static_assert(sizeof(void *) == 4, "this is for -m32");

enum {
	SYS_exit = 1, SYS_read = 3, SYS_write = 4, SYS_open = 5, SYS_close = 6,
	SYS_munmap = 91, SYS_readv = 145, SYS_writev = 146, SYS_poll = 168,
	SYS_mmap2 = 192, SYS_preadv2 = 378, SYS_pwritev2 = 379,
};

enum { EAGAIN = 11, EFAULT = 14, EINVAL = 22, EMSGSIZE = 90 };
enum { O_RDWR = 2, PROT_READ = 1, PROT_WRITE = 2, MAP_SHARED = 1 };
enum { RWF_NOWAIT = 8 };

enum { HELLO = 1, NOP = 2, GET_MEMORY_PARAMETERS = 0x20 };
enum { HELLO_DONE = 0x8001, NOP_DONE = 0x8002, MEMORY_PARAMETERS = 0x8020 };

struct header {
	u32 length;
	u16 opcode;
	u16 flags;
	u64 user_data;
};

struct batch {
	u32 count;
	u32 bytes;
	u32 still_queued;
	u32 next_length;
};

struct vector {
	void *base;
	u32 length;
};

/* Six arguments; the last one goes in ebp, which the compiler may use. */
static long call(long number, long a, long b, long c, long d, long e, long f)
{
	long result;
	long last[2] = { number, f };

	__asm__ volatile("push %%ebp\n\t"
			 "mov 4(%%eax), %%ebp\n\t"
			 "mov (%%eax), %%eax\n\t"
			 "int $0x80\n\t"
			 "pop %%ebp"
			 : "=a"(result)
			 : "a"(last), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory");
	return result;
}

static void say(const char *text)
{
	u32 length = 0;

	while (text[length])
		length++;
	call(SYS_write, 1, (long)text, length, 0, 0, 0);
}

static void end(int status)
{
	call(SYS_exit, status, 0, 0, 0, 0, 0);
	__builtin_unreachable();
}

static int failures;

static void check(const char *what, int good)
{
	if (good)
		return;
	say("FAILED: ");
	say(what);
	say("\n");
	failures++;
}

static u8 buffer[4096];

static const struct batch *batch(void)
{
	return (const struct batch *)buffer;
}

static const struct header *first(void)
{
	return (const struct header *)(buffer + sizeof(struct batch));
}

__attribute__((force_align_arg_pointer)) void _start(void)
{
	struct header nop[3];
	struct vector vectors[3];
	struct { int fd; u16 events, revents; } pollfd;
	struct { u64 area, page; u32 count, size, page_length; } parameters;
	volatile u8 *area;
	const u32 *page;
	long fd, result;
	u32 n;

	fd = call(SYS_open, (long)"/dev/usmbd", O_RDWR, 0, 0, 0, 0);
	if (fd < 0) {
		say("FAILED: open\n");
		end(1);
	}
	for (n = 0; n < 3; n++)
		nop[n] = (struct header) { 16, NOP, 0, 0x100000001ull * n };

	check("write", call(SYS_write, fd, (long)nop, 48, 0, 0, 0) == 48);
	pollfd.fd = fd;
	pollfd.events = 5;
	check("poll", call(SYS_poll, (long)&pollfd, 1, 0, 0, 0, 0) == 1 && pollfd.revents == 5);
	check("short read", call(SYS_read, fd, (long)buffer, 31, 0, 0, 0) == -EMSGSIZE);
	check("read", call(SYS_read, fd, (long)buffer, 32, 0, 0, 0) == 32 &&
	      batch()->count == 1 && batch()->still_queued == 2 && first()->opcode == NOP_DONE);
	vectors[0] = (struct vector) { buffer, 5 };
	vectors[1] = (struct vector) { buffer + 5, 20 };
	vectors[2] = (struct vector) { buffer + 25, sizeof(buffer) - 25 };
	check("readv", call(SYS_readv, fd, (long)vectors, 3, 0, 0, 0) == 48 &&
	      batch()->count == 2 && first()->user_data == 0x100000001ull);

	vectors[0] = (struct vector) { &nop[0], 3 };
	vectors[1] = (struct vector) { (u8 *)nop + 3, 30 };
	vectors[2] = (struct vector) { (u8 *)nop + 33, 10 };
	check("writev takes whole records", call(SYS_writev, fd, (long)vectors, 3, 0, 0, 0) == 32);
	vectors[0] = (struct vector) { buffer, sizeof(buffer) };
	check("preadv2", call(SYS_preadv2, fd, (long)vectors, 1, -1, -1, RWF_NOWAIT) == 48);
	check("preadv2 of nothing", call(SYS_preadv2, fd, (long)vectors, 1, -1, -1, RWF_NOWAIT) == -EAGAIN);
	vectors[0] = (struct vector) { nop, 16 };
	check("pwritev2", call(SYS_pwritev2, fd, (long)vectors, 1, -1, -1, RWF_NOWAIT) == 16);
	check("its event", call(SYS_read, fd, (long)buffer, sizeof(buffer), 0, 0, 0) == 32);
	check("a bad address", call(SYS_write, fd, 8, 16, 0, 0, 0) == -EFAULT);
	check("a part of a record", call(SYS_write, fd, (long)nop, 15, 0, 0, 0) == -EINVAL);

	nop[0].opcode = GET_MEMORY_PARAMETERS;
	check("GET_MEMORY_PARAMETERS", call(SYS_write, fd, (long)nop, 16, 0, 0, 0) == 16 &&
	      call(SYS_read, fd, (long)buffer, sizeof(buffer), 0, 0, 0) == 64 &&
	      first()->opcode == MEMORY_PARAMETERS);
	__builtin_memcpy(&parameters, first() + 1, 28);
	result = call(SYS_mmap2, 0, 2 * parameters.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		      (long)(parameters.area >> 12));
	area = (volatile u8 *)result;
	check("map the area", (u32)result < -4095u);
	if (!failures) {
		check("zeroed", area[parameters.size] == 0);
		area[parameters.size] = 7;
		check("kept", area[parameters.size] == 7);
		check("unmap", call(SYS_munmap, result, 2 * parameters.size, 0, 0, 0, 0) == 0);
	}
	/* 2^40 bytes: an offset that 32 bits hold only in pages. */
	result = call(SYS_mmap2, 0, parameters.page_length, PROT_READ, MAP_SHARED, fd,
		      (long)(parameters.page >> 12));
	check("map the status page", (u32)result < -4095u);
	page = (const u32 *)result;
	if (!failures)
		check("its version", page[0] == 0x10000);
	check("close", call(SYS_close, fd, 0, 0, 0, 0, 0) == 0);
	say(failures ? "32 bits: failed\n" : "32 bits: good\n");
	end(failures != 0);
}
