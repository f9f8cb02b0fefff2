#include "json.hpp"

#include <charconv>
#include <cmath>
#include <cstdint>
#include <system_error>

namespace ideal::detail {
namespace {

constexpr int max_depth = 32;

class Parser {
public:
    Parser(const char* text, std::size_t size) : begin_(text), at_(text), end_(text + size) {}

    Json document() {
        Json value = parse_value(0);
        skip_space();
        if (at_ != end_) fail("more than one value");
        return value;
    }

private:
    [[noreturn]] void fail(const std::string& what) const {
        throw JsonError(what + " at byte " + std::to_string(at_ - begin_));
    }

    void skip_space() {
        while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
    }

    bool take(char c) {
        skip_space();
        if (at_ == end_ || *at_ != c) return false;
        ++at_;
        return true;
    }

    void expect(char c) {
        if (!take(c)) fail(std::string("'") + c + "' is missing");
    }

    bool take_word(const char* word) {
        const char* p = at_;
        for (; *word != '\0'; ++word, ++p)
            if (p == end_ || *p != *word) return false;
        at_ = p;
        return true;
    }

    Json parse_value(int depth) {
        if (depth > max_depth) fail("nesting is too deep");
        skip_space();
        if (at_ == end_) fail("the text ends too early");
        Json value;
        if (*at_ == '{') {
            value.kind = Json::Kind::object;
            parse_object(value, depth);
        } else if (*at_ == '[') {
            value.kind = Json::Kind::array;
            parse_array(value, depth);
        } else if (*at_ == '"') {
            value.kind = Json::Kind::string;
            value.string = parse_string();
        } else if (take_word("true")) {
            value.kind = Json::Kind::boolean;
            value.boolean = true;
        } else if (take_word("false")) {
            value.kind = Json::Kind::boolean;
        } else if (!take_word("null")) {
            value.kind = Json::Kind::number;
            value.number = parse_number();
        }
        return value;
    }

    void parse_object(Json& value, int depth) {
        ++at_;
        if (take('}')) return;
        do {
            skip_space();
            if (at_ == end_ || *at_ != '"') fail("a key is missing");
            const std::string key = parse_string();
            expect(':');
            if (!value.object.emplace(key, parse_value(depth + 1)).second) fail("key '" + key + "' occurs twice");
        } while (take(','));
        expect('}');
    }

    void parse_array(Json& value, int depth) {
        ++at_;
        if (take(']')) return;
        do value.array.push_back(parse_value(depth + 1));
        while (take(','));
        expect(']');
    }

    unsigned parse_hex() {
        unsigned code = 0;
        for (int k = 0; k < 4; ++k, ++at_) {
            if (at_ == end_) fail("the text ends too early");
            const char c = *at_;
            const int digit = c >= '0' && c <= '9'   ? c - '0'
                              : c >= 'a' && c <= 'f' ? c - 'a' + 10
                              : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                     : -1;
            if (digit < 0) fail("a wrong \\u escape");
            code = 16 * code + static_cast<unsigned>(digit);
        }
        return code;
    }

    void append_utf8(std::string& out, unsigned code) const {
        if (code < 0x80) {
            out += static_cast<char>(code);
        } else if (code < 0x800) {
            out += static_cast<char>(0xC0 | code >> 6);
            out += static_cast<char>(0x80 | (code & 0x3F));
        } else if (code < 0x10000) {
            out += static_cast<char>(0xE0 | code >> 12);
            out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
            out += static_cast<char>(0x80 | (code & 0x3F));
        } else {
            out += static_cast<char>(0xF0 | code >> 18);
            out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
            out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
            out += static_cast<char>(0x80 | (code & 0x3F));
        }
    }

    std::string parse_string() {
        std::string out;
        for (++at_;; ++at_) {
            if (at_ == end_) fail("a string does not end");
            const char c = *at_;
            if (c == '"') break;
            if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a string");
            if (c != '\\') {
                out += c;
                continue;
            }
            if (++at_ == end_) fail("a string does not end");
            switch (*at_) {
            case '"': out += '"'; break;
            case '\\': out += '\\'; break;
            case '/': out += '/'; break;
            case 'b': out += '\b'; break;
            case 'f': out += '\f'; break;
            case 'n': out += '\n'; break;
            case 'r': out += '\r'; break;
            case 't': out += '\t'; break;
            case 'u': {
                ++at_;
                unsigned code = parse_hex();
                if (code >= 0xDC00 && code < 0xE000) fail("half of a surrogate pair");
                if (code >= 0xD800 && code < 0xDC00) {
                    if (!take_word("\\u")) fail("half of a surrogate pair");
                    const unsigned low = parse_hex();
                    if (low < 0xDC00 || low > 0xDFFF) fail("half of a surrogate pair");
                    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                }
                append_utf8(out, code);
                --at_;
                break;
            }
            default: fail("an unknown escape");
            }
        }
        ++at_;
        return out;
    }

    bool digits() {
        const char* start = at_;
        while (at_ != end_ && *at_ >= '0' && *at_ <= '9') ++at_;
        return at_ != start;
    }

    double parse_number() {
        const char* start = at_;
        if (at_ != end_ && *at_ == '-') ++at_;
        const bool zero = at_ != end_ && *at_ == '0';
        const char* first = at_;
        if (!digits() || (zero && at_ - first > 1)) fail("neither a value nor a number");
        if (at_ != end_ && *at_ == '.') {
            ++at_;
            if (!digits()) fail("a number without digits after its point");
        }
        if (at_ != end_ && (*at_ == 'e' || *at_ == 'E')) {
            ++at_;
            if (at_ != end_ && (*at_ == '+' || *at_ == '-')) ++at_;
            if (!digits()) fail("a number without digits in its exponent");
        }
        double number = 0;
        const auto result = std::from_chars(start, at_, number);
        if (result.ec != std::errc() || result.ptr != at_ || !std::isfinite(number)) fail("a number out of range");
        return number;
    }

    const char *begin_, *at_, *end_;
};

[[noreturn]] void wrong(const char* what, const char* expected) {
    throw JsonError(std::string(what) + " must be " + expected);
}

} // namespace

Json Json::parse(const char* text, std::size_t size) { return Parser(text, size).document(); }

bool Json::as_bool(const char* what) const {
    if (kind != Kind::boolean) wrong(what, "true or false");
    return boolean;
}

double Json::as_number(const char* what) const {
    if (kind != Kind::number) wrong(what, "a number");
    return number;
}

std::size_t Json::as_size(const char* what) const {
    if (kind != Kind::number || !(number >= 0 && number <= 9007199254740992.0) || number != std::floor(number))
        wrong(what, "a whole number from 0 to 2^53");
    return static_cast<std::size_t>(number);
}

const std::string& Json::as_string(const char* what) const {
    if (kind != Kind::string) wrong(what, "a string");
    return string;
}

const std::vector<Json>& Json::as_array(const char* what) const {
    if (kind != Kind::array) wrong(what, "a list");
    return array;
}

const std::map<std::string, Json>& Json::as_object(const char* what) const {
    if (kind != Kind::object) wrong(what, "an object");
    return object;
}

const Json& Json::at(const char* key) const {
    const auto found = object.find(key);
    if (found == object.end()) throw JsonError(std::string("'") + key + "' is missing");
    return found->second;
}

std::string json_string(const std::string& text) {
    static const char* hex = "0123456789abcdef";
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (static_cast<unsigned char>(c) < 0x20) {
            out += "\\u00";
            out += hex[static_cast<unsigned char>(c) >> 4];
            out += hex[c & 0xF];
        } else {
            out += c;
        }
    }
    return out + '"';
}

std::string json_number(double number) {
    char buffer[64];
    const auto result = std::to_chars(buffer, buffer + sizeof buffer, number);
    return std::string(buffer, result.ptr);
}

} // namespace ideal::detail
