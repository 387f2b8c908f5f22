/* Preloaded into a process: refuses packets and connections to other machines and name look-ups, and appends each to the
 * file $REFUSED_NETWORK. Multicast and the machine's own addresses are let through: DDS uses them. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *call, const char *host) {
    char line[300];
    const char *path = getenv("REFUSED_NETWORK");
    int file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    int length = snprintf(line, sizeof line, "%s %s\n", call, host);
    if (file >= 0 && length > 0 && write(file, line, (size_t)length) != length) abort();
    if (file >= 0) close(file);
}

static int is_own(int family, const void *address) {
    struct ifaddrs *first, *one;
    int found = 0;
    if (getifaddrs(&first)) return 0;
    for (one = first; one; one = one->ifa_next) {
        if (!one->ifa_addr || one->ifa_addr->sa_family != family) continue;
        found |= family == AF_INET ? !memcmp(address, &((struct sockaddr_in *)one->ifa_addr)->sin_addr, 4)
                                   : !memcmp(address, &((struct sockaddr_in6 *)one->ifa_addr)->sin6_addr, 16);
    }
    freeifaddrs(first);
    return found;
}

static int is_refused(const char *call, const struct sockaddr *to) {
    char host[INET6_ADDRSTRLEN] = "";
    int saved = errno, refused = 0;
    if (to && to->sa_family == AF_INET) {
        const struct in_addr *address = &((const struct sockaddr_in *)to)->sin_addr;
        unsigned char first = (unsigned char)(ntohl(address->s_addr) >> 24);
        refused = first != 0 && first != 127 && first >> 4 != 14 && !is_own(AF_INET, address);
        inet_ntop(AF_INET, address, host, sizeof host);
    } else if (to && to->sa_family == AF_INET6) {
        const struct in6_addr *address = &((const struct sockaddr_in6 *)to)->sin6_addr;
        refused = !IN6_IS_ADDR_LOOPBACK(address) && !IN6_IS_ADDR_MULTICAST(address) && !IN6_IS_ADDR_UNSPECIFIED(address);
        refused = refused && !is_own(AF_INET6, address);
        inet_ntop(AF_INET6, address, host, sizeof host);
    }
    if (refused) note(call, host);
    errno = refused ? ENETUNREACH : saved;
    return refused;
}

int connect(int socket, const struct sockaddr *to, socklen_t length) {
    static int (*real)(int, const struct sockaddr *, socklen_t);
    if (!real) real = dlsym(RTLD_NEXT, "connect");
    return is_refused("connect", to) ? -1 : real(socket, to, length);
}

ssize_t sendto(int socket, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    static ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    if (!real) real = dlsym(RTLD_NEXT, "sendto");
    return is_refused("sendto", to) ? -1 : real(socket, data, size, flags, to, length);
}

ssize_t sendmsg(int socket, const struct msghdr *message, int flags) {
    static ssize_t (*real)(int, const struct msghdr *, int);
    if (!real) real = dlsym(RTLD_NEXT, "sendmsg");
    return is_refused("sendmsg", message->msg_name) ? -1 : real(socket, message, flags);
}

int sendmmsg(int socket, struct mmsghdr *messages, unsigned int count, int flags) {
    static int (*real)(int, struct mmsghdr *, unsigned int, int);
    unsigned int k;
    if (!real) real = dlsym(RTLD_NEXT, "sendmmsg");
    for (k = 0; k < count; k++)
        if (is_refused("sendmmsg", messages[k].msg_hdr.msg_name)) return -1;
    return real(socket, messages, count, flags);
}

static int is_name(const char *host) {
    unsigned char address[16];
    return host && *host && strcmp(host, "localhost") && inet_pton(AF_INET, host, address) != 1
        && inet_pton(AF_INET6, host, address) != 1;
}

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (!real) real = dlsym(RTLD_NEXT, "getaddrinfo");
    if (!is_name(host)) return real(host, service, hints, found);
    note("getaddrinfo", host);
    return EAI_FAIL;
}

struct hostent *gethostbyname(const char *host) {
    static struct hostent *(*real)(const char *);
    if (!real) real = dlsym(RTLD_NEXT, "gethostbyname");
    if (!is_name(host)) return real(host);
    note("gethostbyname", host);
    h_errno = HOST_NOT_FOUND;
    return NULL;
}
