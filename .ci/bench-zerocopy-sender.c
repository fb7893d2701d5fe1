// What sending costs the kernel of this machine, with its copy and without (MSG_ZEROCOPY), by the size of a chunk: in seconds of a
// processor for a GB.
//
//   unshare -Urn ./bench-zerocopy-sender ROUNDS
//
// No network that is at hand leaves the bytes where they are: whatever ends on the same machine copies them when they arrive. So
// nothing arrives. A virtual card (tap) throws away what is sent before anything of it is copied, and this program makes up the other
// end's acknowledgements. The connection begins in the middle (TCP_REPAIR), so nobody has to answer. All of it is one thread; all that
// the kernel does for a chunk, from the call to the notice that it is through, is in its processor's time. Each chunk is read before it
// is sent, as a sum reads it; that is not counted. Chunks are so small that each leaves at once: beyond what the connection lets out in
// one go, this thread would only wait for another of the kernel's.
//
// Prints for each round a line per size: bytes of a chunk, s/GB with the copy, s/GB without, and how many sends were copied all the same.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEADER = 48, THEIR_PORT = 7777, FIRST = 1000, THEIR_FIRST = 2000, ETHERNET = 14, IP = 20, OFFLOAD = 10 };
static const size_t TOTAL = 256u << 20, SPAN = 256u << 20;
// Of the first quarter nothing is counted: the windows open.
static const size_t WARM = TOTAL / 4;

static int card, connection;
static uint64_t written;
static unsigned long through, copied;
static volatile uint64_t seen;

static int ok(int result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

static double processor(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6;
}

// A card that drops all that is sent, and sums and cuts packets by itself, as far as the kernel knows.
static void make_card(void) {
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    struct sock_filter nothing = {BPF_RET | BPF_K, 0, 0, 0};
    struct sock_fprog filter = {1, &nothing};
    strcpy(request.ifr_name, "card");
    card = ok(open("/dev/net/tun", O_RDWR), "/dev/net/tun");
    ok(ioctl(card, TUNSETIFF, &request), "a virtual card");
    ok(ioctl(card, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4), "what it does by itself");
    ok(ioctl(card, TUNATTACHFILTER, &filter), "its filter");
    if (system("ip link set card address 02:00:00:00:00:01 up && ip addr add 10.99.0.1/24 dev card &&"
               "ip neigh replace 10.99.0.2 lladdr 02:00:00:00:00:02 dev card nud permanent"))
        exit(1);
}

static void set(int level, int option, const void *value, socklen_t len, const char *what) {
    ok(setsockopt(connection, level, option, value, len), what);
}

static void set_tcp(int option, int value) { set(IPPROTO_TCP, option, &value, sizeof value, "TCP_REPAIR (as root of a namespace)"); }

static void begin(int port) {
    struct sockaddr_in our = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = inet_addr("10.99.0.1")};
    struct sockaddr_in their = {.sin_family = AF_INET, .sin_port = htons(THEIR_PORT), .sin_addr.s_addr = inet_addr("10.99.0.2")};
    struct tcp_repair_opt agreed[] = {{2, 1460}, {3, 14 | 14 << 16}};
    int yes = 1;
    connection = ok(socket(AF_INET, SOCK_STREAM, 0), "a socket");
    set_tcp(TCP_REPAIR, 1);
    ok(bind(connection, (struct sockaddr *)&our, sizeof our), "a port");
    set_tcp(TCP_REPAIR_QUEUE, TCP_SEND_QUEUE);
    set_tcp(TCP_QUEUE_SEQ, FIRST);
    set_tcp(TCP_REPAIR_QUEUE, TCP_RECV_QUEUE);
    set_tcp(TCP_QUEUE_SEQ, THEIR_FIRST);
    ok(connect(connection, (struct sockaddr *)&their, sizeof their), "a connection");
    set(IPPROTO_TCP, TCP_REPAIR_OPTIONS, agreed, sizeof agreed, "TCP_REPAIR_OPTIONS");
    set_tcp(TCP_REPAIR, 0);
    set_tcp(TCP_NODELAY, 1);
    set(SOL_SOCKET, SO_ZEROCOPY, &yes, sizeof yes, "SO_ZEROCOPY");
    written = through = copied = 0;
}

static void end(void) {
    struct linger at_once = {1, 0};
    set(SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once, "SO_LINGER");
    close(connection);
}

static uint32_t add(const uint8_t *bytes, int len, uint32_t sum) {
    for (int at = 0; at < len; at += 2) sum += bytes[at] << 8 | bytes[at + 1];
    return sum;
}

static void put16(uint8_t *at, uint16_t value) { memcpy(at, &(uint16_t){htons(value)}, 2); }
static void put32(uint8_t *at, uint32_t value) { memcpy(at, &(uint32_t){htonl(value)}, 4); }
static void put_sum(uint8_t *at, uint32_t sum) {
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    put16(at, ~sum);
}

// The other end has all that was sent.
static void acknowledge(int port) {
    uint8_t packet[OFFLOAD + ETHERNET + IP + 20] = {0}, *ethernet = packet + OFFLOAD, *ip = ethernet + ETHERNET, *tcp = ip + IP;
    int unsent = 0;
    ok(ioctl(connection, SIOCOUTQNSD, &unsent), "SIOCOUTQNSD");
    memcpy(ethernet, "\x02\0\0\0\0\1\x02\0\0\0\0\2\x08\0", ETHERNET);
    memcpy(ip, "\x45\0\0\x28\0\0\0\0\x40\6\0\0\x0a\x63\0\2\x0a\x63\0\1", IP);
    put_sum(ip + 10, add(ip, IP, 0));
    put16(tcp, THEIR_PORT);
    put16(tcp + 2, port);
    put32(tcp + 4, THEIR_FIRST);
    put32(tcp + 8, FIRST + (uint32_t)(written - unsent));
    memcpy(tcp + 12, "\x50\x10\xff\xff", 4);
    put_sum(tcp + 16, add(tcp, 20, add(ip + 12, 8, IPPROTO_TCP + 20)));
    ok(write(card, packet, sizeof packet), "an acknowledgement");
}

static void reap(void) {
    for (;;) {
        char control[128];
        struct msghdr message = {.msg_control = control, .msg_controllen = sizeof control};
        if (recvmsg(connection, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) return;
        struct cmsghdr *piece = CMSG_FIRSTHDR(&message);
        if (!piece) continue;
        struct sock_extended_err *notice = (void *)CMSG_DATA(piece);
        if (notice->ee_origin != SO_EE_ORIGIN_ZEROCOPY) continue;
        unsigned long count = notice->ee_data - notice->ee_info + 1;
        through += count;
        if (notice->ee_code & SO_EE_CODE_ZEROCOPY_COPIED) copied += count;
    }
}

// Sends so much, and says how much of it was taken.
static size_t send_some(int port, const char *bytes, size_t len, int flags) {
    ssize_t sent = send(connection, bytes, len, MSG_DONTWAIT | flags);
    if (sent < 0 && errno != EAGAIN && errno != ENOBUFS) ok(-1, "sending");
    if (sent < 0) {
        acknowledge(port);
        reap();
        return 0;
    }
    written += sent;
    return sent;
}

static double measure(int port, const char *bytes, size_t chunk, int flags) {
    static const char header[HEADER];
    double began = 0, reading = 0;
    size_t at = 0;
    begin(port);
    for (size_t all = 0; all < TOTAL; all += chunk) {
        if (began == 0 && all >= WARM) began = processor(), reading = 0;
        double reads = processor();
        uint64_t sum = 0;
        for (size_t word = 0; word < chunk; word += 64) sum += *(const uint64_t *)(bytes + at + word);
        seen += sum;
        reading += processor() - reads;
        for (size_t sent = 0; sent < HEADER;) sent += send_some(port, header + sent, HEADER - sent, MSG_MORE);
        for (size_t sent = 0; sent < chunk;) sent += send_some(port, bytes + at + sent, chunk - sent, flags);
        acknowledge(port);
        reap();
        at = at + 2 * chunk > SPAN ? 0 : at + chunk;
    }
    double took = processor() - began - reading;
    end();
    return took / ((TOTAL - WARM) / 1e9);
}

int main(int words, char **word) {
    int rounds = words > 1 ? atoi(word[1]) : 3, port = 20000;
    char *bytes = aligned_alloc(1 << 21, SPAN);
    memset(bytes, 7, SPAN);
    make_card();
    for (int round = 0; round < rounds; round++)
        for (size_t chunk = 16 << 10; chunk <= 256 << 10; chunk *= 2) {
            double with = measure(port++, bytes, chunk, 0), without = measure(port++, bytes, chunk, MSG_ZEROCOPY);
            printf("%zu %.4f %.4f %lu\n", chunk, with, without, copied);
            fflush(stdout);
        }
}
