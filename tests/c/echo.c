// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * An echo server in C: sends every message back to where it came from.
 *
 * usage: c-echo [address [port [iWARP port]]]
 *
 * All connections stand in one context. The descriptor does not block: a message that the
 * connection's send queue has no room for waits here until SEND_READY, without keeping other
 * connections waiting; a peer that sends and sends but does not receive is disconnected before it
 * fills our memory. Ends on SIGTERM and SIGINT.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <usmbd.h>

#define MOST_WAITING (64u << 20)	/* bytes of one connection's messages */
#define LOOK_AGAIN 200			/* ms until blocked connections are tried again */

struct message {
	struct message *next;
	uint32_t length;	/* of the whole message */
	uint32_t present;	/* what of it came */
	char bytes[];
};

struct connection {
	struct connection *next;
	uint64_t number;
	struct message *first, **last;	/* in the order of arrival; the last may be unfinished */
	uint64_t waiting;		/* bytes of them */
	int blocked;			/* until SEND_READY, or the next look */
};

static struct connection *connections;
static volatile sig_atomic_t stop;

static void on_signal(int number)
{
	(void)number;
	stop = 1;
}

static void fail(const char *what)
{
	fprintf(stderr, "c-echo: %s: %s\n", what, usmbd_error());
	exit(1);
}

static struct connection **place_of(uint64_t number)
{
	struct connection **place = &connections;

	while (*place && (*place)->number != number)
		place = &(*place)->next;
	return place;
}

static void add(uint64_t number)
{
	struct connection *connection = calloc(1, sizeof(*connection));

	if (!connection)
		fail("a new connection");
	connection->number = number;
	connection->last = &connection->first;
	connection->next = connections;
	connections = connection;
}

static void drop_first(struct connection *connection)
{
	struct message *message = connection->first;

	connection->first = message->next;
	if (!connection->first)
		connection->last = &connection->first;
	connection->waiting -= message->length;
	free(message);
}

static void forget(uint64_t number)
{
	struct connection **place = place_of(number), *connection = *place;

	if (!connection)
		return;
	*place = connection->next;
	while (connection->first)
		drop_first(connection);
	free(connection);
}

/* Sends what is whole and has room. */
static void echo(struct usmbd *usmbd, struct connection *connection)
{
	struct message *message;

	while (!connection->blocked && (message = connection->first) &&
	       message->present == message->length) {
		struct iovec part = { message->bytes, message->length };
		int result = usmbd_send(usmbd, connection->number, 0, USMBD_QUIET, 0, &part, 1);

		if (result == -EAGAIN) {
			connection->blocked = 1;
			return;
		}
		/* An end that is still to be read tells itself; of the rest the peer is told. */
		if (result < 0 && result != -ENOTCONN && result != -ENOENT)
			usmbd_disconnect(usmbd, connection->number, 0);
		drop_first(connection);
	}
}

/*
 * How long to wait for events: SEND_READY tells that a connection's queue has room, but none tells that
 * the context takes commands again.
 */
static int patience(void)
{
	struct connection *connection = connections;

	while (connection && !connection->blocked)
		connection = connection->next;
	return connection ? LOOK_AGAIN : -1;
}

static void try_again(struct usmbd *usmbd)
{
	struct connection *connection;

	for (connection = connections; connection; connection = connection->next) {
		connection->blocked = 0;
		echo(usmbd, connection);
	}
}

static void take_piece(struct usmbd *usmbd, const struct usmbd_ev_pdu_received *piece)
{
	struct connection *connection = *place_of(piece->connection);
	struct message *message;

	if (!connection)
		return;
	if (piece->offset == 0) {
		message = malloc(sizeof(*message) + piece->total);
		if (!message)
			fail("a message");
		*message = (struct message){ .length = piece->total };
		*connection->last = message;
		connection->last = &message->next;
		connection->waiting += message->length;
	} else {
		/* The link to the next message is the struct's first member. */
		message = (struct message *)connection->last;
	}
	memcpy(message->bytes + piece->offset, piece + 1, piece->payload_length);
	message->present += piece->payload_length;
	if (connection->waiting > MOST_WAITING)
		usmbd_disconnect(usmbd, connection->number, 0);
	echo(usmbd, connection);
}

static void handle(struct usmbd *usmbd, const struct usmbd_header *event)
{
	const void *body = event + 1;

	switch (event->opcode) {
	case USMBD_EV_LISTENING: {
		const struct usmbd_ev_listening *listening = body;

		if (listening->status) {
			fprintf(stderr, "c-echo: %s\n", usmbd_status_text(listening->status));
			exit(1);
		}
		puts("c-echo: listening");
		break;
	}
	case USMBD_EV_CONNECTION_READY: {
		const struct usmbd_ev_connection_ready *ready = body;

		/* -ENOENT: the peer has gone already. */
		usmbd_accept(usmbd, ready->ticket, 0);
		break;
	}
	case USMBD_EV_ACCEPTED: {
		const struct usmbd_ev_accepted *accepted = body;

		if (!accepted->status)
			add(accepted->connection);
		break;
	}
	case USMBD_EV_PDU_RECEIVED:
		take_piece(usmbd, body);
		break;
	case USMBD_EV_SEND_READY: {
		const struct usmbd_ev_send_ready *ready = body;
		struct connection *connection = *place_of(ready->connection);

		if (connection) {
			connection->blocked = 0;
			echo(usmbd, connection);
		}
		break;
	}
	case USMBD_EV_DISCONNECTED: {
		const struct usmbd_ev_disconnected *end = body;

		printf("c-echo: connection %llu: %s\n", (unsigned long long)end->connection,
		       usmbd_reason_text(end->reason));
		forget(end->connection);
		break;
	}
	}
}

static void parse(struct usmbd_cmd_listen *listen, int argc, char **argv)
{
	if (argc > 1 && inet_pton(AF_INET, argv[1], listen->address.address) == 1) {
		listen->address.family = USMBD_IPV4;
	} else if (argc > 1 && inet_pton(AF_INET6, argv[1], listen->address.address) == 1) {
		listen->address.family = USMBD_IPV6;
	} else if (argc > 1) {
		fprintf(stderr, "c-echo: %s is no address\n", argv[1]);
		exit(2);
	}
	listen->address.port = argc > 2 ? (uint16_t)atoi(argv[2]) : 0;
	listen->iwarp_port = argc > 3 ? (uint16_t)atoi(argv[3]) : 0;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct usmbd_cmd_listen listen = { .backlog = 0 };
	const struct usmbd_header *event;
	struct usmbd *usmbd;
	int result;

	setvbuf(stdout, NULL, _IOLBF, 0);
	parse(&listen, argc, argv);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	usmbd = usmbd_open();
	if (!usmbd)
		fail("the device");
	if (fcntl(usmbd_fd(usmbd), F_SETFL, O_NONBLOCK) || usmbd_listen(usmbd, &listen, 0))
		fail("listening");
	while (!stop) {
		struct pollfd readable = { .fd = usmbd_fd(usmbd), .events = POLLIN };

		result = usmbd_next_event(usmbd, 0, &event);
		if (result == 0)
			handle(usmbd, event);
		else if (result != -EAGAIN)
			fail("reading");
		else if ((result = poll(&readable, 1, patience())) == 0)
			try_again(usmbd);
		else if (result < 0 && errno != EINTR)
			fail("poll");
	}
	usmbd_close(usmbd);
	return 0;
}
