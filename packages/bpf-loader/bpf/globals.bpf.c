/* Globals of every kind: what is set in .rodata before the load comes out in .bss and .data after a run. */
#include "packet.h"

enum mode { MODE_OFF, MODE_ON, MODE_AUTO = 10 };

struct limits {
  __u16 low;
  __u16 high;
  struct {
    __s8 bias;
    _Bool strict;
  } nested;
};

const volatile __u8 small = 1;
const volatile __s64 wide = -5;
const volatile _Bool enabled;
const volatile enum mode mode = MODE_ON;
const volatile char label[16] = "unset";
const volatile struct limits limits = {.low = 1, .high = 2};
const volatile __be32 address;
const volatile struct {
  __u8 bytes[16];
} address6;
const volatile __u32 table[4] = {1, 2, 3, 4};
const volatile int placed SEC(".rodata.tuning") = 7;

__u64 calls = 100;
struct {
  __u8 small;
  __s64 wide;
  _Bool enabled;
  enum mode mode;
  char label[16];
  struct limits limits;
  __be32 address;
  __u8 address6[16];
  __u32 sum;
  int placed;
} seen;

SEC("xdp")
int copy(struct xdp_md *ctx) {
  seen.small = small;
  seen.wide = wide;
  seen.enabled = enabled;
  seen.mode = mode;
  for (int at = 0; at < 16; at++) {
    seen.label[at] = label[at];
    seen.address6[at] = address6.bytes[at];
  }
  seen.limits.low = limits.low;
  seen.limits.high = limits.high;
  seen.limits.nested.bias = limits.nested.bias;
  seen.limits.nested.strict = limits.nested.strict;
  seen.address = address;
  seen.sum = table[0] + table[1] + table[2] + table[3];
  seen.placed = placed;
  calls++;
  return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
