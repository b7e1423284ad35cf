/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A C program against a socket pair that stands for the device. */
#include <usmbd.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXPECT(x) do { if (!(x)) { fprintf(stderr, "line %d: %s: %s\n", __LINE__, #x, \
	usmbd_error()); return 1; } } while (0)

int main(void)
{
	struct {
		struct usmbd_batch_header batch;
		struct usmbd_header header;
		struct usmbd_header other;
		struct usmbd_ev_pdu_sent sent;
	} events = {
		.batch = { .count = 2, .bytes = 64 },
		.header = { .length = 16, .opcode = USMBD_EV_NOP_DONE, .user_data = 5 },
		.other = { .length = 32, .opcode = USMBD_EV_PDU_SENT, .user_data = 6 },
		.sent = { .connection = 7, .status = 1 },
	};
	struct {
		struct usmbd_header header;
		struct usmbd_cmd_send_pdu send;
		char payload[160];
	} written;
	const struct usmbd_header *event;
	struct iovec parts[3] = { { "he", 2 }, { 0, 0 }, { "llo", 3 } };
	struct usmbd_range ranges[2] = { { .length = 4 }, { .buffer = 0x80000000u, .length = 3 } };
	struct usmbd_presumption presumptions[1] = { { .context_type = 1, .id = USMBD_ANY_ID } };
	unsigned char response[128] = { 1 };
	struct usmbd_cmd_listen listen = { .backlog = 3 };
	struct usmbd *usmbd;
	int fds[2];

	EXPECT(!usmbd_from_fd(-1) && errno == EBADF);
	EXPECT(strstr(usmbd_error(), "Bad file descriptor"));
	EXPECT(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds) == 0);
	usmbd = usmbd_from_fd(fds[0]);
	EXPECT(usmbd && usmbd_fd(usmbd) == fds[0]);

	EXPECT(usmbd_send(usmbd, 7, 6, USMBD_INVALIDATE, 9, parts, 3) == 0);
	EXPECT(read(fds[1], &written, sizeof(written)) == 40);
	EXPECT(written.header.opcode == USMBD_CMD_SEND_PDU && written.header.length == 40);
	EXPECT(written.send.payload_length == 5 && written.send.invalidate_token == 9);
	EXPECT(memcmp(written.payload, "hello\0\0\0", 8) == 0);
	EXPECT(usmbd_send(usmbd, 7, 6, 0x80, 0, parts, 3) == -EINVAL);
	EXPECT(usmbd_send(usmbd, 7, 6, 0, 0, parts, 0) == -EINVAL);
	EXPECT(strstr(usmbd_error(), "at least one byte"));

	EXPECT(usmbd_listen(usmbd, &listen, 1) == 0);
	EXPECT(read(fds[1], &written, sizeof(written)) == 56);

	EXPECT(usmbd_send_ranges(usmbd, 7, 6, 0, 0, ranges, 2) == 0);
	EXPECT(read(fds[1], &written, sizeof(written)) == 64);
	EXPECT(written.header.flags == USMBD_RANGES && written.send.payload_length == 7);
	EXPECT(memcmp(written.payload, ranges, sizeof(ranges)) == 0);
	EXPECT(usmbd_set_negotiate_template(usmbd, 4, NULL, 0, response, 128) == -EINVAL);
	EXPECT(usmbd_set_negotiate_template(usmbd, 3, presumptions, 1, response, 127) == -EINVAL);
	EXPECT(usmbd_set_negotiate_template(usmbd, 3, presumptions, 1, response, 128) == 0);
	EXPECT(read(fds[1], &written, sizeof(written)) == 168);
	EXPECT(usmbd_set_negotiate_template(usmbd, 3, NULL, 0, NULL, 0) == 0);
	EXPECT(read(fds[1], &written, sizeof(written)) == 32);
	EXPECT(usmbd_set_session_id(usmbd, 0) == -EINVAL);
	EXPECT(usmbd_set_session_id(usmbd, 9) == 0 && usmbd_clear_session_id(usmbd, 9) == 0);
	EXPECT(read(fds[1], &written, sizeof(written)) == 24);
	EXPECT(written.header.opcode == USMBD_CMD_SET_SESSION_ID);
	EXPECT(read(fds[1], &written, sizeof(written)) == 24);
	EXPECT(written.header.opcode == USMBD_CMD_CLEAR_SESSION_ID);
	EXPECT(usmbd_set_client_guid(usmbd, response) == 0);
	EXPECT(read(fds[1], &written, sizeof(written)) == 32);
	EXPECT(written.header.opcode == USMBD_CMD_SET_CLIENT_GUID);
	EXPECT(usmbd_clear_client_guid(usmbd, response) == 0);
	EXPECT(read(fds[1], &written, sizeof(written)) == 32);
	EXPECT(written.header.opcode == USMBD_CMD_CLEAR_CLIENT_GUID);
	EXPECT(usmbd_register_memory(usmbd, NULL, 5, 1) == -EINVAL);
	EXPECT(usmbd_register_memory(usmbd, response, sizeof(response), 1) == 0);
	EXPECT(read(fds[1], &written, sizeof(written)) == 32);
	EXPECT(written.header.opcode == USMBD_CMD_REGISTER_MEMORY);
	EXPECT(usmbd_unregister_memory(usmbd, 0x80000000u, 2) == 0);
	EXPECT(read(fds[1], &written, sizeof(written)) == 24);
	EXPECT(written.header.opcode == USMBD_CMD_UNREGISTER_MEMORY);
	EXPECT(usmbd_query_statistics(usmbd, 0, 3) == 0);
	EXPECT(read(fds[1], &written, sizeof(written)) == 24 && written.send.connection == 0);
	EXPECT(usmbd_list_connections(usmbd, 8, 4) == 0);
	EXPECT(read(fds[1], &written, sizeof(written)) == 24 && written.send.connection == 8);
	EXPECT(usmbd_drop(usmbd, 9) == 0);
	EXPECT(read(fds[1], &written, sizeof(written)) == 24 && written.send.connection == 9);
	EXPECT(written.header.opcode == USMBD_CMD_DROP);

	EXPECT(usmbd_next_event(usmbd, 0, &event) == -EAGAIN);
	EXPECT(write(fds[1], &events, 64) == 64);
	EXPECT(usmbd_next_event(usmbd, 1, &event) == 0);
	EXPECT(event->opcode == USMBD_EV_NOP_DONE && event->user_data == 5);
	EXPECT(usmbd_events_at_hand(usmbd) == 1);
	EXPECT(usmbd_next_event(usmbd, 1, &event) == 0);
	EXPECT(((const struct usmbd_ev_pdu_sent *)(event + 1))->connection == 7);
	EXPECT(usmbd_events_at_hand(usmbd) == 0);
	EXPECT(!strcmp(usmbd_status_text(1), "the connection ended first"));
	EXPECT(!strcmp(usmbd_reason_text(999), "a reason of a newer driver"));
	usmbd_close(usmbd);
	usmbd_close(NULL);
	EXPECT(read(fds[1], &written, sizeof(written)) == 0);
	return 0;
}
