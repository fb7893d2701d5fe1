/* One end of a pair that moves buffers by one-sided puts of UCX, each confirmed: a put, and a flush that ends when it is in the other
 * end's memory. peers.py builds it against the library that it measures, and talks to it as to its own peers.
 *
 *     ucx_put PORT sender|receiver
 *
 * A line "SIZE WARM COUNT" on standard input asks for COUNT buffers of SIZE bytes after WARM that don't count; "took SECONDS" answers. Both
 * ends spin, as UCX's own programs do. */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <ucp/api/ucp.h>

#define SIZES_MAX 64

static ucp_context_h context;
static ucp_worker_h worker;
static ucp_ep_h endpoint;
static int wire;

/* A buffer of one size, and the other end's. */
static struct known {
    size_t size;
    void *buffer;
    uint64_t theirs;
    ucp_rkey_h key;
} known[SIZES_MAX];

static void fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void check(const char *what, ucs_status_t status) {
    if (status != UCS_OK) {
        fail(what, ucs_status_string(status));
    }
}

static void write_all(const void *data, size_t len) {
    for (size_t at = 0; at < len;) {
        ssize_t wrote = write(wire, (const char *)data + at, len - at);
        if (wrote <= 0) {
            fail("the wire", strerror(errno));
        }
        at += (size_t)wrote;
    }
}

static void read_all(void *data, size_t len) {
    for (size_t at = 0; at < len;) {
        ssize_t got = read(wire, (char *)data + at, len - at);
        if (got <= 0) {
            fail("the wire", got ? strerror(errno) : "closed");
        }
        at += (size_t)got;
    }
}

/* Says something of any length, and hears the same of the other end. */
static void *exchange(const void *ours, uint64_t len, uint64_t *len_of_theirs) {
    write_all(&len, sizeof len);
    write_all(ours, len);
    read_all(len_of_theirs, sizeof *len_of_theirs);
    void *theirs = malloc(*len_of_theirs);
    if (!theirs) {
        fail("memory", "none");
    }
    read_all(theirs, *len_of_theirs);
    return theirs;
}

static void meet(int port, int is_sender) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1;
    wire = socket(AF_INET, SOCK_STREAM, 0);
    if (is_sender) {
        for (int tries = 0; connect(wire, (struct sockaddr *)&at, sizeof at) != 0; tries++) {
            if (tries > 1000) {
                fail("connect", strerror(errno));
            }
            usleep(10000);
            close(wire);
            wire = socket(AF_INET, SOCK_STREAM, 0);
        }
    } else {
        int listener = wire;
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        if (bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, 1) != 0) {
            fail("listen", strerror(errno));
        }
        wire = accept(listener, NULL, NULL);
        close(listener);
    }
    setsockopt(wire, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

static void start(void) {
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES, .features = UCP_FEATURE_RMA};
    ucp_worker_params_t of_worker = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE, .thread_mode = UCS_THREAD_MODE_SINGLE};
    check("ucp_init", ucp_init(&params, NULL, &context));
    check("ucp_worker_create", ucp_worker_create(context, &of_worker, &worker));
    ucp_address_t *ours;
    size_t len;
    uint64_t len_of_theirs;
    check("ucp_worker_get_address", ucp_worker_get_address(worker, &ours, &len));
    ucp_address_t *theirs = exchange(ours, len, &len_of_theirs);
    ucp_ep_params_t of_endpoint = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS, .address = theirs};
    check("ucp_ep_create", ucp_ep_create(worker, &of_endpoint, &endpoint));
    free(theirs);
}

static struct known *prepare(size_t size) {
    struct known *at = known;
    while (at->size && at->size != size) {
        if (++at == known + SIZES_MAX) {
            fail("sizes", "too many");
        }
    }
    if (at->size) {
        return at;
    }
    at->buffer = aligned_alloc(4096, (size + 4095) & ~(size_t)4095);
    if (!at->buffer) {
        fail("memory", "none");
    }
    memset(at->buffer, 1, size);
    ucp_mem_map_params_t params = {
        .field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH,
        .address = at->buffer,
        .length = size,
    };
    ucp_mem_h memory;
    void *key;
    size_t key_len;
    uint64_t len, address = (uint64_t)(uintptr_t)at->buffer;
    check("ucp_mem_map", ucp_mem_map(context, &params, &memory));
    check("ucp_rkey_pack", ucp_rkey_pack(context, memory, &key, &key_len));
    uint64_t *theirs = exchange(&address, sizeof address, &len);
    at->theirs = *theirs;
    free(theirs);
    void *their_key = exchange(key, key_len, &len);
    check("ucp_ep_rkey_unpack", ucp_ep_rkey_unpack(endpoint, their_key, &at->key));
    free(their_key);
    ucp_rkey_buffer_release(key);
    at->size = size;
    return at;
}

static void until_done(const char *what, void *request) {
    if (!UCS_PTR_IS_PTR(request)) {
        check(what, UCS_PTR_STATUS(request));
        return;
    }
    while (ucp_request_check_status(request) == UCS_INPROGRESS) {
        ucp_worker_progress(worker);
    }
    check(what, ucp_request_check_status(request));
    ucp_request_free(request);
}

static void put(const struct known *at) {
    ucp_request_param_t param = {0};
    void *request = ucp_put_nbx(endpoint, at->buffer, at->size, at->theirs, at->key, &param);
    /* The flush covers the put, whose own end says only that the buffer may be used again. */
    until_done("ucp_ep_flush_nbx", ucp_ep_flush_nbx(endpoint, &param));
    until_done("ucp_put_nbx", request);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* The receiving end has nothing to do but to let UCX work, until the sender says that it is through. */
static void serve(void) {
    char done;
    ssize_t got;
    do {
        for (int turn = 0; turn < 64; turn++) {
            ucp_worker_progress(worker);
        }
        got = recv(wire, &done, 1, MSG_DONTWAIT);
    } while (got < 0 && (errno == EAGAIN || errno == EINTR));
    if (got <= 0) {
        fail("the wire", "closed");
    }
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fail("usage", "ucx_put PORT sender|receiver");
    }
    int is_sender = strcmp(argv[2], "sender") == 0;
    meet(atoi(argv[1]), is_sender);
    start();
    size_t size;
    unsigned warm, count;
    while (scanf("%zu %u %u", &size, &warm, &count) == 3) {
        const struct known *at = prepare(size);
        double took = 0;
        if (is_sender) {
            for (unsigned done = 0; done < warm; done++) {
                put(at);
            }
            double started = now();
            for (unsigned done = 0; done < count; done++) {
                put(at);
            }
            took = now() - started;
            write_all("", 1);
        } else {
            serve();
        }
        printf("took %.9f\n", took);
        fflush(stdout);
    }
    return 0;
}
