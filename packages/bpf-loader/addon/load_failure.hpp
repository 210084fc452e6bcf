// From libbpf's errno and words to a typed failure.
#pragma once

#include <bpf/libbpf.h>

#include <string>

#include "result.hpp"
#include "verifier_log.hpp"

namespace aegis {

// `printed`: all that libbpf printed during the load.
Failure loadFailure(int error, const std::string& printed, const LogBuffer& log, const bpf_object* object);
Failure attachTargetFailure(int error, const std::string& target);

bpf_map* findMap(const bpf_object* object, const std::string& name);
Failure unknownMap(const bpf_object* object, const std::string& name);

}  // namespace aegis
